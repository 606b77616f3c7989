"""The contracts that plugins implement, and the objects that components receive.

This package is public. One module per topic:

    criterion, read       criteria, and what they declare about the views that they read
    noiser, encoder       noisers and encoders
    task                  tasks and their sources of examples
    optimizer, schedule   optimizers and learning-rate schedules
    hooks, phase          lifecycle hooks, the view of a run that they receive, and phases of training
    views                 batches, views, encodings, loss terms
    context               what the engine passes to components
    keyed                 random numbers as a function of seed, purpose, draw and position
    options               fields of a component's Config
    sizes                 sizes from which operations are counted

The names that most plugins need are also in `fwk`.
"""
