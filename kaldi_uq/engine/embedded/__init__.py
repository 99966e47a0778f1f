"""The engine on Kaldi's C++ as Python wheels."""

from kaldi_uq.errors import EngineError

try:  # here, before any module of this package; and in this order: some releases never return from the other
    import kaldi_hmm_gmm  # noqa: F401
    import kaldifst  # noqa: F401
except ImportError as error:
    raise EngineError(
        f"the embedded engine needs kaldi-hmm-gmm and kaldifst ({error}); run: pip install 'kaldi-uq[kaldi]' "
        "(or set KALDI_ROOT to use Kaldi's programs)"
    ) from None
