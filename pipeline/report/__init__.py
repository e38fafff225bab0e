"""`report.html`: what a person looks at first, made of an output folder's tables and pictures."""
