"""Export of image and text classifiers: gate, graph, checks."""
