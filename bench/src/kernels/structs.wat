;; WasmGC: lists of 64 nodes, built and dropped $n times.
(module
  (type $node (struct (field (ref null $node)) (field i32)))
  (func (export "run") (param $n i32) (result i32)
    (local $list (ref null $node)) (local $i i32) (local $sum i32)
    (loop $again
      (local.set $list (ref.null $node))
      (local.set $i (i32.const 64))
      (loop $grow
        (local.set $list (struct.new $node (local.get $list) (local.get $i)))
        (br_if $grow (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
      (local.set $sum
        (i32.add (local.get $sum) (struct.get $node 1 (ref.as_non_null (local.get $list)))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum)))
