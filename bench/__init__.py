"""What the gateway costs, beside nginx, HAProxy and Envoy, in one run: `make bench`."""
