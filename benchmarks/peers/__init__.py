"""What others would write; measured against."""
