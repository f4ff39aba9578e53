"""Private training in Keras' own words: `compile`, `fit`, callbacks, losses, metrics.

Everything that bounds, noises and counts is the engine's (`training.steps.PrivateStep`,
`PrivacyPlan`, `Ledger`); this package only brings a user's model, loss and data to it, and refuses
what the plan does not cover.
"""
