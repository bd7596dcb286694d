"""One file about a bundle that a person reads in a browser, prints or sends on; it asks for nothing else."""

from .page import Extras, report_of_bundle

__all__ = ["Extras", "report_of_bundle"]
