"""`python -m lipcert.certify`: certify a trained network's test images; imported, it is the function `lipcert.certify`.

A submodule would hide the package's public function of the same name. So an import of this module puts the function
into `sys.modules`, from where the import system binds it as the package's attribute.
"""

import sys

if __name__ == "__main__":
    from lipcert.commands.certify import main

    main()
else:
    from lipcert.certificates import certify

    sys.modules[__name__] = certify  # type: ignore[assignment]
