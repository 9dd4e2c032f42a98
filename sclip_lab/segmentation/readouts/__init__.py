"""From windows behind the network to patch logits: cosines with texts, or a method's own.

A readout is a function ``(encoded, text, **parameters) -> logits``. It may read everything in
`sclip_lab.segmentation.encoded.Encoded` and run the network again. Its yaml is a file of
``conf/readout``, and a protocol names it: ``protocol.readout``.

``encoded`` holds windows of grid_h x grid_w patches; ``text`` is (queries, embed_dim) unit text
embeddings; logits are (windows, grid_h, grid_w, queries) float32. The argument lists of this
package leave ``encoded`` and ``text`` out. If a network has no class token, its pooled image
embedding is used.
"""
