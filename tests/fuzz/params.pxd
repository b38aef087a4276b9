include "_params.pxd"
