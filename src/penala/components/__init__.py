"""The components as data (*.yaml), and one thin entry module for each, started by argv and never imported."""
