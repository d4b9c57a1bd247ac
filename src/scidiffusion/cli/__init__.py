"""The command line: a thin Typer app over the estimators, with no logic of its own."""
