"""The built-in components of uldm. They come in through the same door as anybody's plugin: ``manifest``."""
