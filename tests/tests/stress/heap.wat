;; Garbage: lists that are built and dropped, beside one that stays.
(module
  (type $node (struct (field (ref null $node)) (field i32)))
  (global $kept (mut (ref null $node)) (ref.null $node))
  (func $list (param $n i32) (result (ref null $node)) (local $list (ref null $node))
    (loop $grow
      (local.set $list (struct.new $node (local.get $list) (local.get $n)))
      (br_if $grow (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $list))
  (func (export "collect") (param $n i32)
    (global.set $kept (call $list (i32.const 1000)))
    (loop $again
      (drop (call $list (i32.const 100)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
