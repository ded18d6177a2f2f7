"""Write a site in which artifacts run in the visitor's browser, and serve it on this machine."""
