"""Choose the type of each tensor within a budget, by what each costs alone, and by measuring what was chosen."""
