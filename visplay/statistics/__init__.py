"""What numbers are worth: intervals, paired comparison, agreement of raters, averages, breakdowns."""
