"""What runs say of the options that they tried: read from the record, ranked over seeds, drawn, and put on a page."""
