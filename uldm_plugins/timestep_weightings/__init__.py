"""Which times are trained, and how much each counts."""
