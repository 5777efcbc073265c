import { useEffect, useRef, type MouseEvent, type ReactNode } from 'react';
import { Icon } from './icon.tsx';

export interface DrawerProps {
  /** Named by its content, for landmarks and dialogs. */
  label: string;
  side: 'left' | 'right';
  /** Wide windows show it beside the conversation; on narrow ones it is a dialog over it. */
  docked: boolean;
  open: boolean;
  onClose: () => void;
  children: ReactNode;
}

export function Drawer({ label, side, docked, open, onClose, children }: DrawerProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: undocked, there is another element
  useEffect(() => {
    const element = dialog.current;
    if (!element) return;
    if (open && !element.open) element.showModal();
    if (!open && element.open) element.close();
  }, [docked, open]);

  if (docked) {
    return open ? (
      <aside className={`drawer drawer--${side}`} aria-label={label}>
        {children}
      </aside>
    ) : null;
  }
  const closeOnBackdrop = (event: MouseEvent) => {
    if (event.target === dialog.current) onClose();
  };
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape closes a dialog by itself
    <dialog ref={dialog} className={`drawer drawer--${side} drawer--modal`} aria-label={label} onClose={onClose} onClick={closeOnBackdrop}>
      <div className="drawer__content">
        <button
          type="button"
          className="button button--quiet button--icon drawer__close"
          aria-label={`Close ${label.toLowerCase()}`}
          onClick={onClose}
        >
          <Icon name="close" />
        </button>
        {open && children}
      </div>
    </dialog>
  );
}
