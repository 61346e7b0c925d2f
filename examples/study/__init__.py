"""A study: settings times seeds through the ordinary command line, and a page made from what the runs logged."""
