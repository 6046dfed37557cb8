"""What is found out about a recipe before it runs: dry build, shapes, costs, forecast."""
