"""The command line: parse, call, render. The one room that knows click."""
