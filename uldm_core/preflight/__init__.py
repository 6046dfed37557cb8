"""Everything that looks at a recipe before it runs: dry build, shapes, costs, forecast."""
