"""A recipe for a folder of images: what the folder holds, how fast this computer is, what follows from both."""
