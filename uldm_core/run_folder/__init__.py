"""A run's folder: the files that outlive the program, and to which options they belong."""
