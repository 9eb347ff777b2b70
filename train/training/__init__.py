"""The training run, its schedule, augmentation and output folder, shared by both wings."""
