"""How fast the package is, beside other software: ``make bench``, and ``README.md`` for what is measured and how."""
