"""Building blocks of models: small objects with weights and a `forward` over the rows of a batch.

They know the kernels and the explicit `ForwardBatch`; they do not know which model uses them, where weights came from,
or how KV is kept.
"""
