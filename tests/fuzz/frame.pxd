include "_frame.pxd"
