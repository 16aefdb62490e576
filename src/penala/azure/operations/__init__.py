"""The operations of a local client, one module for each of MLClient's: real entities in, real entities out."""
