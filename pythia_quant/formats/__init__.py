"""One folder a format, with everything about it: settings excepted, writer, reader, runtime."""
