"""A page and a terminal view of runs, while they train and afterwards. Reads run directories and changes nothing."""
