"""Data that ships with the project: prompts, questions, templates of cards and pages."""
