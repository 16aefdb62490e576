"""A keyed address and the model versions that answer behind it: gateway, deployment process, scoring contract."""
