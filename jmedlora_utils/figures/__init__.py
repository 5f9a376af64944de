"""Every figure and the one look they share. May import analysis and the rooms above it."""
