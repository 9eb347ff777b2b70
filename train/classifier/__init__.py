"""Training, tuning and evaluation of image and text classifiers."""
