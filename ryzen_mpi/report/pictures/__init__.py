"""Drawings of a report, as SVG that follows the page's colours, in a wide and a narrow size."""
