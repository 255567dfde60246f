"""Asking the rules, and turning their answers into one report. The engine knows no rule, and no rule knows the engine."""
