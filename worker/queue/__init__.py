"""Where jobs wait, and how a process takes them and gives them back."""
