import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';
import { pageConfig } from '../shared/vite.ts';

export default defineConfig(pageConfig('bench', [react()]));
