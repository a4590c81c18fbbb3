"""What the black-box tests share: a node's life, a raw RESP client, id arithmetic, the history checker."""
