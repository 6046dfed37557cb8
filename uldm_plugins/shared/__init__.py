"""What components of several kinds use and is no network: images, files, averages of weights."""
