"""The learning rate's factor at each step."""
