"""The HTML report: one self-contained file that asks for nothing from outside."""
