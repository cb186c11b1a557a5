"""What was measured, for people: one set of figures as a page, as Markdown and as JSON."""
