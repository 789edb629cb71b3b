"""The claims of two surveys of gradient descent, checked by experiments: ``make survey`` writes docs/survey.md."""
