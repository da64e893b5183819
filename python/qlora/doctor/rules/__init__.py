"""The one table of rules: the doctor reasons from it, and the decision tree is printed from it."""
