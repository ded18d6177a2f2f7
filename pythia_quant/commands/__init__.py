"""The commands, one module a kind of work: arguments in, one library call, printed result out."""
