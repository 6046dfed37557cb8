"""A recipe as a picture, its stages and its networks level by level; or as a graph in text."""
