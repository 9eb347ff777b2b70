"""The settings of every command as data; what does the work is imported when a command runs."""
