"""A recipe for a folder of images: from what it holds and how fast this computer is."""
