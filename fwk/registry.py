"""Names -> classes. One mechanism for every kind of component, first-party or not.

    @register("criterion", "masked_lm")
    class MaskedLM(Criterion):
        @dataclass(frozen=True, kw_only=True)
        class Config:
            label_smoothing: float = option(0.0, "share of the target mass spread over the vocabulary", low=0, high=1)

An entry knows its class, its config schema and the file and line it came from. Two plugins that claim one name are an
error naming both places. Entries of the built-in and first-party components are first read from an index that ships
beside the code (`index.json`), so that names, keys and types can be checked without importing torch; the class is
imported when it is asked for.
"""
