;; Ways through a guest that are hard to walk back: each export is one.
(module
  (import "stress" "pause" (func $pause))
  (import "stress" "enter" (func $enter))
  (import "stress" "spawn" (func $spawn))
  (type $step (func (param i32) (result i32)))
  (memory 1)
  (table 3 funcref)
  (elem (i32.const 0) $tiny $twice)
  (; padding ;)

  (func $tiny (type $step) (i32.xor (local.get 0) (i32.const 7)))
  (func $twice (type $step) (i32.add (call $tiny (local.get 0)) (call $tiny (local.get 0))))
  (func $burn (param $n i32) (result i32) (local $x i32)
    (loop $again
      (local.set $x (i32.add (i32.mul (local.get $x) (i32.const 31)) (local.get $n)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $x))

  ;; Hardly anything but prologues and epilogues.
  (func (export "calls") (param $n i32) (local $x i32)
    (loop $again
      (local.set $x (call $twice (local.get $x)))
      (local.set $x (call_indirect (type $step) (local.get $x) (i32.and (local.get $n) (i32.const 1))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))

  ;; Two functions that take each other's place; the second has arguments on the stack, so the frame moves.
  (func $even (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (return_call $odd (i32.sub (local.get 0) (i32.const 1))
        (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 1)))
      (else (i32.const 1))))
  (func $odd (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
    (if (result i32) (local.get 0)
      (then (return_call $even (i32.sub (local.get 0) (local.get 1))))
      (else (i32.const 0))))
  (func (export "tails") (param $n i32) (drop (call $even (local.get $n))))

  ;; $depth frames, then a trap of a kind.
  (func $descend (param $depth i32) (param $kind i32) (result i32)
    (if (result i32) (local.get $depth)
      (then
        (i32.add
          (call $descend (i32.sub (local.get $depth) (i32.const 1)) (local.get $kind))
          (i32.const 1)))
      (else
        (drop (call $burn (i32.const 2000)))
        (block $indirect
          (block $divide
            (block $bounds
              (block $unreachable
                (br_table $unreachable $bounds $divide $indirect (local.get $kind)))
              (unreachable))
            (return (i32.load (i32.const -8))))
          (return (i32.div_u (i32.const 1) (i32.load (i32.const 0)))))
        (call_indirect (type $step) (i32.const 1) (i32.const 2)))))
  (func (export "trap") (param $depth i32) (param $kind i32)
    (drop (call $descend (local.get $depth) (local.get $kind))))

  (func $forever (param i32) (result i32)
    (i32.add (call $forever (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
  (func (export "overflow") (drop (call $forever (i32.const 0))))

  ;; Gives way to the host at the bottom of $depth frames, again and again.
  (func $wait (param $depth i32) (local $n i32)
    (if (local.get $depth)
      (then (call $wait (i32.sub (local.get $depth) (i32.const 1))))
      (else
        (local.set $n (i32.const 8))
        (loop $again
          (call $pause)
          (drop (call $burn (i32.const 100000)))
          (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))))
  (func (export "wait") (param $depth i32) (call $wait (local.get $depth)))

  (func (export "nest") (call $enter) (drop (call $burn (i32.const 100000))))
  (func (export "fork") (call $spawn) (drop (call $burn (i32.const 100000)))))
