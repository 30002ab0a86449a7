"""The paper's tables and figures: a grid of trainings, run and scored, beside what the paper reports."""
